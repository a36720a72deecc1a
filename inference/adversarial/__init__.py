"""Adversarial training: two players, their losses, what keeps their game stable, and how samples are judged."""
