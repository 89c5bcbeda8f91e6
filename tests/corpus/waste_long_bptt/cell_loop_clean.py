"""Forecasts a signal with a cell that is unrolled step by step."""

import torch


def unroll(cell, readout, signal, state):
    predictions = []
    for value in signal:
        state = cell(value, state)
        predictions.append(readout(state))
    return torch.stack(predictions), state


def train(signal, chunk, epochs, device):
    cell, readout = torch.nn.RNNCell(4, 96).to(device), torch.nn.Linear(96, 4).to(device)
    optimizer = torch.optim.SGD([*cell.parameters(), *readout.parameters()], lr=0.05)
    for _ in range(epochs):
        state = torch.zeros(signal.shape[1], 96, device=device)
        for start in range(0, len(signal) - 1, chunk):
            part = signal[start : start + chunk + 1]
            predictions, state = unroll(cell, readout, part[:-1], state.detach())
            loss = (predictions - part[1:]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(loss.item())


if __name__ == "__main__":
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    signal = torch.sin(torch.arange(301.0).view(-1, 1, 1) / 7 + torch.rand(1, 128, 4)).to(device)
    train(signal, chunk=30, epochs=4, device=device)
