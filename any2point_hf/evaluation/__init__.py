"""How good is an adapter, how sure of itself, and how robust?"""
