"""How do other frameworks search here?

Owns one retriever per framework, each in a module that only who has that framework imports. Never
changes what a search finds.
"""
