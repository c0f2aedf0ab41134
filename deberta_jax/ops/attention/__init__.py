"""Disentangled attention (He et al. 2021, section 3.1) as the released weights compute it.

The score of query i for key j is, with rel = the row of the relative table for the distance i - j,

    (q_i . k_j  +  q_i . pos_k[rel]  +  k_j . pos_q[rel]  +  pos_q[rel] . pos_k[rel]) / sqrt(d * terms)

content to content, content to position (c2p), position to content (p2c), position to position (p2p): the product
(q_i + pos_q[rel]) . (k_j + pos_k[rel]) written out. Each position term is optional; published models have c2p and p2c.
The paper's equation 4 scores position to content with the distance j - i; the released code, and so every published
weight, uses i - j in both terms. p2p crashes in the released code; here it takes the same row as the others.

One problem (`problem.py`), several ways to solve it: `reference` (the oracle), `xla` (GPUs), `blockwise` (CPUs, long
rows), `gpu` (cuDNN), `tpu` (Pallas); `choice` picks one. `chosen` is the enhanced mask decoder's: few queries, all
keys.
"""
