"""Emergency mode: only critical channels stay on, and what was comes back exactly.

:mod:`mode` decides (pure), :mod:`memory` keeps what was in OpenHIM's main database,
:mod:`protection` looks whether audit and TLS are on, :mod:`switch` does it, and :mod:`respect`
keeps the rest of the package from undoing it.
"""
