"""Classifies clips from their spectrograms, which are computed on the device."""

import torch


def train_step(net, optimizer, wave, label, window):
    magnitude = torch.stft(wave, 256, hop_length=64, window=window, return_complex=True).abs()
    features = magnitude.log1p().mean(dim=2, keepdim=True) + 0.1 * magnitude.log1p()
    del magnitude
    optimizer.zero_grad()
    logits = net(features).mean(dim=2)
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = torch.nn.Sequential(torch.nn.Conv1d(129, 256, 3), torch.nn.ReLU(), torch.nn.Conv1d(256, 4, 3)).to(device)
    optimizer = torch.optim.Adam(net.parameters())
    window = torch.hann_window(256, device=device)
    for _ in range(8):
        wave = torch.randn(32, 8000, device=device)
        print(train_step(net, optimizer, wave, torch.randint(0, 4, (32,), device=device), window))


main()
