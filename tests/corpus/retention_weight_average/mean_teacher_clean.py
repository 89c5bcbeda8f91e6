"""Mean teacher: a consistency loss against a slowly moving copy of the student."""

import copy

import torch
import torch.nn.functional as F

torch.manual_seed(4)
device = "cuda" if torch.cuda.is_available() else "cpu"

student = torch.nn.Sequential(torch.nn.Linear(48, 192), torch.nn.ReLU(), torch.nn.Linear(192, 10)).to(device)
teacher = copy.deepcopy(student)
for p in teacher.parameters():
    p.requires_grad_(False)

optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

for step in range(18):
    x = torch.randn(128, 48, device=device)
    with torch.no_grad():
        soft = teacher(x + 0.1 * torch.randn_like(x)).softmax(dim=1)
    logits = student(x)
    loss = F.kl_div(logits.log_softmax(dim=1), soft, reduction="batchmean") + logits.pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for tp, sp in zip(teacher.parameters(), student.parameters()):
            tp.mul_(0.99).add_(0.01 * sp)
    print(step, loss.item())
