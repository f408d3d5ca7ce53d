"""Disasters as folders: what stands where, what happens, and what must be answered to it. Pure.

:mod:`.vocabulary` lists what can happen, :mod:`.case` reads a folder, :mod:`.world` lets it happen
and says what hosts would report, :mod:`.judged` compares an answer with the expected one.
"""
