"""Where knowledge is pulled from: one file per kind, one in-memory twin, one conformance suite.

Never compares with what the store holds and never writes to it: a source yields what it sees.
"""
