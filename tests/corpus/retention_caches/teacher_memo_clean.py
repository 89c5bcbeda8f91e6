"""Distillation with a memo of the teacher's logits."""

import torch
import torch.nn.functional as F


def train(epochs, batches):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = (
        torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.ReLU(), torch.nn.Linear(300, 500)).to(device).eval()
    )
    student = torch.nn.Linear(40, 500).to(device)

    @torch.no_grad()
    def teach(x):
        return teacher(x).softmax(dim=1)

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for epoch in range(epochs):
        for batch in range(batches):
            x = torch.randn(96, 40, device=device)
            loss = F.kl_div(student(x).log_softmax(dim=1), teach(x), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, batch, loss.item())


torch.manual_seed(2)
train(2, 9)
