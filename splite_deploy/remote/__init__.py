"""Other machines, reached by ssh: what they lack is sent there, a command runs there, and its results come back.

`connection` talks to `agent`, whose text it sends to a Python over there; `push` says which files have to be there,
`gather` writes those that come back, and `work` does the whole for several machines at once. What a machine answers is
never trusted: sizes, names, numbers and texts are checked here.
"""
