"""Predict the tag of short texts with a bag of embeddings.

Follows the PyTorch text-classification tutorial: texts of different length
are packed into one long tensor with offsets.
"""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader

random.seed(0)
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

VOCAB_SIZE = 10000
NUM_TAGS = 400
BATCH_SIZE = 256


def make_texts(count):
    texts = []
    for _ in range(count):
        tag = random.randrange(NUM_TAGS)
        length = random.randint(4, 30)
        texts.append((tag, [(tag * 25 + random.randrange(50)) % VOCAB_SIZE for _ in range(length)]))
    return texts


def collate_batch(batch):
    label_list, text_list, offsets = [], [], [0]
    for label, tokens in batch:
        label_list.append(label)
        processed_text = torch.tensor(tokens, dtype=torch.int64)
        text_list.append(processed_text)
        offsets.append(processed_text.size(0))
    label_list = torch.tensor(label_list, dtype=torch.int64)
    offsets = torch.tensor(offsets[:-1]).cumsum(dim=0)
    text_list = torch.cat(text_list)
    return label_list.to(device), text_list.to(device), offsets.to(device)


class TextClassificationModel(nn.Module):
    def __init__(self, vocab_size, embed_dim, num_class):
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocab_size, embed_dim, sparse=False)
        self.fc = nn.Linear(embed_dim, num_class)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))


def train(dataloader):
    model.train()
    total_acc, total_count = 0, 0
    for label, text, offsets in dataloader:
        optimizer.zero_grad()
        predicted_label = model(text, offsets)
        loss = criterion(predicted_label, label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        total_acc += (predicted_label.argmax(1) == label).sum().item()
        total_count += label.size(0)
    return total_acc / total_count


def evaluate(dataloader):
    model.eval()
    total_acc, total_count = 0, 0
    with torch.no_grad():
        for label, text, offsets in dataloader:
            predicted_label = model(text, offsets)
            total_acc += (predicted_label.argmax(1) == label).sum().item()
            total_count += label.size(0)
    return total_acc / total_count


train_dataloader = DataLoader(make_texts(3072), batch_size=BATCH_SIZE, shuffle=True, collate_fn=collate_batch)
valid_dataloader = DataLoader(make_texts(4096), batch_size=BATCH_SIZE, collate_fn=collate_batch)

model = TextClassificationModel(VOCAB_SIZE, 128, NUM_TAGS).to(device)
criterion = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=5.0)

for epoch in range(1, 3):
    accu_train = train(train_dataloader)
    accu_val = evaluate(valid_dataloader)
    print(f"| epoch {epoch} | train accuracy {accu_train:.3f} | valid accuracy {accu_val:.3f}")
