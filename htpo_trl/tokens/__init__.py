"""The token map: what the loss did to single tokens, recorded during training and shown afterwards."""
