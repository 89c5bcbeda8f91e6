"""Collect hidden activations of an MLP while it is evaluated."""

import torch

torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

net = torch.nn.Sequential(
    torch.nn.Linear(128, 512),
    torch.nn.GELU(),
    torch.nn.Linear(512, 512),
    torch.nn.GELU(),
    torch.nn.Linear(512, 2),
).to(device)
net.eval()

acts = {"gelu1": [], "gelu2": []}
net[1].register_forward_hook(lambda module, inputs, output: acts["gelu1"].append(output.mean().item()))
net[3].register_forward_hook(lambda module, inputs, output: acts["gelu2"].append(output.mean().item()))

with torch.no_grad():
    for batch in range(20):
        x = torch.randn(256, 128, device=device)
        logits = net(x)
        print(batch, logits.sum().item())

print(len(acts["gelu1"]), len(acts["gelu2"]))
