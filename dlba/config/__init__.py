"""Configuration: YAML text to frozen values, every error at its line.

`values` says which keys there are, `load` reads files. The way between: `document` (text to nodes),
`nodes`, `fields` and `shapes` (node to value), `checks` and `certificates` (what one key alone
can't tell), `problems` (what is reported).
"""
