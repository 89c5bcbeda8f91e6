"""Losses on embeddings."""


def triplet(anchor, positive, negative, margin=0.3):
    closer = (anchor - positive).pow(2).sum(1)
    farther = (anchor - negative).pow(2).sum(1)
    return (closer - farther + margin).clamp(min=0).mean()
