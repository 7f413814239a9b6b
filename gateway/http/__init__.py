"""The HTTP/1.1 server core: `protocol.listen` serves an `s3api.message.Application`; `limits.Limits` bounds it.

Kind: shell, but for its pure parts (`head`, `chunked`, `render`).
"""
