"""A training function whose loop runs in a context."""

import torch


def training_loop(model, optimizer, batches):
    for x, y in batches:
        loss = torch.nn.functional.smooth_l1_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


def make_batches(count, device):
    for _ in range(count):
        x = torch.randn(256, 128, device=device)
        yield x, x.roll(1, dims=1)


def main():
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.SiLU(), torch.nn.Linear(256, 128)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    training_loop(model, optimizer, make_batches(10, device))


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", message="Anomaly Detection")
    main()
