"""Whether the answers are right: kept pictures, what people say of them, and figures made of both.

`store` is the only module that knows where they lie; `schema` has its tables. Nothing outside this
folder but `app` knows of it.
"""
