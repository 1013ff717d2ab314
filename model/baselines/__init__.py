"""The methods the network is compared with; `model.methods` registers them beside it."""
