"""sqlc's request in, Python source for psycopg 3 out.

A pipeline, each step a module that knows nothing of the next:

    request, config   what sqlc sent and what the user asked for, checked
    comments          the prose and the marks of a query's comment
    pgtypes           PostgreSQL types as Python types
    sqltext           what only the text of a query tells
    model             the classes and functions to write, every name settled
    render            their source text (laid out by `layout`)
    main              reads, runs the steps, answers or reports what is wrong

`static/_runtime.py` is the helper module that the generated code calls; it is copied as it is.
"""
