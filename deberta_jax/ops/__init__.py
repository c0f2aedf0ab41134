"""Pure array functions. Letters: b batch, l length, q query, k key, p prediction (masked position), e embed, h heads,
d head size, m mlp, r relative row, v vocabulary. Arrays carry them as a suffix; einsum strings use the same letters."""
