"""A knowledge base that every machine can fill: your Python environment.

`facts` reads the environment, `knowledge_base` puts it where three sources find it, `api` serves one
of them, and `tour` drives headwater's commands and checks what they promise.
"""
