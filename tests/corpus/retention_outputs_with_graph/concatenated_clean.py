"""Gather all predictions of an evaluation in one tensor."""

import torch


def gather(model, batches):
    everything = None
    for x in batches:
        with torch.no_grad():
            prediction = model(x)
        everything = prediction if everything is None else torch.cat([everything, prediction])
        print(len(everything), prediction.sum().item())
    return everything


def main():
    torch.manual_seed(3)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8)).to(device)
    print(gather(model, [torch.randn(128, 64, device=device) for _ in range(16)]).shape)


main()
