"""Formats, disks and the network; nothing here knows a model.

* source.py: opens a checkpoint of any format, executing nothing; torch_file.py, safetensors_file.py: the formats;
  pickled.py: pickles as data; wrapped.py: what training programs put around a checkpoint
* stored.py: a tensor that lies in a file, read piece by piece; weights.py: writing many of them into shards
* disk.py: files of others; json_file.py: their JSON; sizes.py: sizes as people write them; hub.py: the network
* staging.py: complete or nothing; exchange.py: the same for files in a folder; hashing.py: SHA-256 of what is copied
"""
