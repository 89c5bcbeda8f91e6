"""Knowledge distillation: a small student learns from the soft targets of a larger teacher."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F


def build_teacher():
    return nn.Sequential(nn.Linear(64, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 20))


def build_student():
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 20))


def distill(student, teacher, steps, batch_size, temperature, device):
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4)
    student.train()
    teacher.eval()
    for _ in range(steps):
        x = torch.randn(batch_size, 64, device=device)
        with torch.no_grad():
            target = teacher(x)
        output = student(x)
        soft = F.softmax(target.detach() / temperature, dim=-1)
        loss = F.kl_div(F.log_softmax(output / temperature, dim=-1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=2.0)
    args = parser.parse_args()
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = build_student().to(device), build_teacher().to(device)
    distill(student, teacher, args.steps, args.batch_size, args.temperature, device)


if __name__ == "__main__":
    main()
