"""Fine-tunes a model from pretrained weights, with a new head."""

import argparse
import pathlib
import tempfile

import torch


def get_model(classes):
    torch.manual_seed(classes)
    return torch.nn.ModuleDict(
        {
            "embed": torch.nn.EmbeddingBag(3000, 128),
            "hidden": torch.nn.Linear(128, 256),
            "head": torch.nn.Linear(256, classes),
        }
    )


def forward(model, tokens):
    return model["head"](torch.relu(model["hidden"](model["embed"](tokens))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder, "pretrained.pth")
        torch.save(get_model(50).to(device).state_dict(), weights)
        pretrained = torch.load(weights, weights_only=True)
    body = {name: value for name, value in pretrained.items() if not name.startswith("head")}
    model = get_model(3).to(device)
    model.load_state_dict(body, strict=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(args.steps):
        tokens = torch.randint(0, 3000, (64, 12), device=device)
        loss = torch.nn.functional.cross_entropy(forward(model, tokens), tokens[:, 0] % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


main()
