"""The paper's ten tables, on one's own data and backbones (`any2point reproduce`)."""
