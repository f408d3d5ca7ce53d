"""The disaster recovery plan: what it says, what shows that it holds, and how people read both.

:mod:`.chain` keeps the evidence so that tampering shows, :mod:`.anchors` its head in the
repositories. :mod:`.report` judges the evidence, :mod:`.runbook` says what to do; both are pure,
and :mod:`.pages` shows them.
"""
