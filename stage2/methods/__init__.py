"""The methods compared: heads, losses, samplers, optimisers, and the recipes made of them."""
