"""Where clients find OpenHIM: the public name, and how it is led to another site.

:mod:`.decision` says where a name points and what would change it, from what was seen;
:mod:`.name_server` asks and updates a name server (RFC 2136), :mod:`.command` runs somebody's
program instead. Both are a *way* (:class:`.decision.Way`): :func:`.declared.way` makes the one that
the pillar declares.
"""
