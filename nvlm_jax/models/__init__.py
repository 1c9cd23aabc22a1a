"""NVLM in four parts: vision encoder, projector, decoder and gated cross-attention, composed in `nvlm.py`.

Letters for shapes, here and below:
    B rows   S tokens of a row   T tiles of a row   N image tokens of a tile   P pixels along a tile's side
    C vision width   D model width   H heads   K key/value heads   h width of a head   F feed-forward width
    V vocabulary   L decoder layers   G cross-attention layers   M places of a key/value cache
"""
