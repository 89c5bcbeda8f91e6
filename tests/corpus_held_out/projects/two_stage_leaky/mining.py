"""Finds the hardest positives and negatives in a pool of candidates."""

import torch


def embed(model, pool):
    was_training = model.training
    model.eval()
    embedding = model(pool)
    model.train(was_training)
    return torch.nn.functional.normalize(embedding, dim=1)


def hardest(model, pool, labels, count):
    embedding = embed(model, pool)
    distance = torch.cdist(embedding, embedding)
    same = labels[:, None] == labels[None]
    positive = distance.masked_fill(~same, -1).argmax(1)[:count]
    negative = distance.masked_fill(same, float("inf")).argmin(1)[:count]
    return pool[:count], pool[positive], pool[negative]
