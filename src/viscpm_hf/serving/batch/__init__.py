"""Offline work: the rows of a file are answered by one process or several, and a run that was killed goes on.

* rows.py: lines of JSON → rows
* output.py: the file of answers: in order, each there once, whatever stops the run
* workers.py: processes with a model each, one of which may die; on the machines of a Ray cluster it is cluster/rows.py
* chat.py, paint.py: a row → its answer or picture, in such a process
"""
