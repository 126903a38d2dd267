from .server import Hub as Hub
