"""Containers of this node: what they are made from, who keeps them, what is recorded of them."""
