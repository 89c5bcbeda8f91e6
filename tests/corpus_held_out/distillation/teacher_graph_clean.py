"""Knowledge distillation from a wide to a narrow network."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def network(width, depth, classes=10):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes))


def distillation_loss(student_logits, teacher_logits, labels, T=4.0, alpha=0.7):
    soft = F.kl_div(
        F.log_softmax(student_logits / T, dim=1),
        F.softmax(teacher_logits.detach() / T, dim=1),
        reduction="batchmean",
    )
    return alpha * T * T * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


class Distiller:
    def __init__(self, teacher, student, device):
        self.teacher, self.student = teacher.to(device), student.to(device)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9)
        self.device = device

    def step(self, images, labels):
        self.student.train()
        self.teacher.eval()
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        student_logits = self.student(images)
        loss = distillation_loss(student_logits, teacher_logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distiller = Distiller(network(32, 2), network(8, 1), device)
    for step in range(10):
        images = torch.randn(16, 3, 16, 16, device=device)
        labels = torch.randint(0, 10, (16,)).to(device)
        print(step, distiller.step(images, labels))


if __name__ == "__main__":
    main()
