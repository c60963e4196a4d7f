"""A small suite file, in parts."""

HEAD = """\
name: small
models: ["builtin:llama"]
profile: dev
dataset: {provider: pydoc, seq_len: 64, preview_n: 24, final_n: 24}
run: {device: cpu}
"""
NOOP = "  - {id: noop, strictness: must_pass, edit: {name: noop}}\n"
GOOD = HEAD + "scenarios:\n" + NOOP
