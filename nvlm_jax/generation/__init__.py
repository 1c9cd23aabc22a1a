"""Decoding with a paged key/value cache.

sampling.py   how a request picks its tokens
ledger.py     which place of a store holds what, and what of it can be used again
store.py      the arrays on the device: pages of keys and values, and what is kept of each tile
programs.py   the three compiled programs: look at tiles, read a piece of prompts, choose tokens
request.py    what is asked, and how a prompt becomes pages and tiles with names
engine.py     which request is read or continued when
text.py       tokens to text as they come, and stop strings
"""
