"""A tree-structured network evaluated by a recursive inner function."""

import torch


def forward_tree(cell, leaves):
    states = []

    def visit(low, high):
        if high - low == 1:
            states.append(leaves[low])
            return leaves[low]
        middle = (low + high) // 2
        state = torch.tanh(cell(torch.cat([visit(low, middle), visit(middle, high)], dim=1)))
        states.append(state)
        return state

    root = visit(0, len(leaves))
    visit = None
    return root, len(states)


torch.manual_seed(13)
device = "cuda" if torch.cuda.is_available() else "cpu"
cell = torch.nn.Linear(256, 128).to(device)
optimizer = torch.optim.Adam(cell.parameters(), lr=1e-3)
for i in range(14):
    leaves = [torch.randn(256, 128, device=device) for _ in range(4)]
    root, count = forward_tree(cell, leaves)
    loss = root.pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(i, count, loss.item())
