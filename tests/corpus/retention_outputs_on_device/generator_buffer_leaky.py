"""Stream embeddings of documents through a generator."""

import torch


def embed(model, documents):
    done = []
    for document in documents:
        with torch.inference_mode():
            vector = model(document)
        done.append(vector)
        yield vector.norm().item()


def documents(count, device):
    for _ in range(count):
        yield torch.randn(128, 96, device=device)


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
encoder = torch.nn.Sequential(torch.nn.Linear(96, 256), torch.nn.Tanh(), torch.nn.Linear(256, 384)).to(device)
for number, norm in enumerate(embed(encoder, documents(20, device))):
    print(number, norm)
