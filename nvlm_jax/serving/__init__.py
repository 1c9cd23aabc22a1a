"""An OpenAI-compatible server; its packages are in requirements-serve.txt.

body.py      what a client may send, checked
errors.py    refusals in OpenAI's form
images.py    pictures from data URIs and, where it is allowed, from the web
worker.py    the thread that the model runs in
replies.py   answers in OpenAI's form, whole or as they come
guard.py     size and time of bodies, keys
app.py       the routes
"""
