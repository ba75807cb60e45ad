"""Guards against files made to do harm: each found case, with bounded memory and time, ends in one sentence."""

import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from viscpm_hf.checkpoint import CheckpointError, convert_cpmbee, verify
from viscpm_hf.checkpoint.files import pickled
from viscpm_hf.checkpoint.files.pickled import MAX_STEPS, Made, Pairs, read_pickle
from viscpm_hf.checkpoint.files.source import open_checkpoint
from viscpm_hf.checkpoint.files.stored import read_pieces

# a tuple that holds itself before last twice, forty times: 2⁴⁰ elements for whoever hashes, compares or prints it
TUPLES = b"(X\3\0\0\0lolt" + b"q\1" + b"0(h\1h\1tq\1" * 40 + b"0"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\3tQ"


def tensor(storage=STORAGE, offset=b"K\0", shape=b"K\3\x85", strides=b"K\1\x85"):
    return TENSOR + b"(" + storage + offset + shape + strides + b"\x89}tR"


def entry(value, name=b"X\1\0\0\0a"):
    return b"\x80\2}" + name + value + b"s."


def archive(path, steps, **members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", steps)
        for name, data in {"_0": bytes(12), **members}.items():
            file.writestr(f"a/data/{name[1:]}", data)
    os.utime(path, (0, 0))
    return path


def test_the_pieces_make_a_sound_file(tmp_path):
    """Otherwise the cases below would show nothing."""
    (found,) = open_checkpoint(archive(tmp_path / "a.bin", entry(tensor()))).values()
    assert found.shape == (3,) and b"".join(read_pieces(found)) == bytes(12)


PICKLES = {
    "a tuple as a name": (b"\x80\2" + TUPLES + b"}h\1Ns.", "a tuple as a name"),
    "a tuple as a name of a tensor": (b"\x80\2" + TUPLES + b"}h\1" + tensor() + b"s.", "a tuple as a name"),
    "a list as a name": (entry(tensor(), b"]"), "a list as a name"),
    "a dict as a name": (entry(tensor(), b"}"), "a Pairs as a name"),
    "a tuple as a storage": (b"\x80\2" + TUPLES + b"}X\1\0\0\0a" + tensor(b"h\1Q") + b"s.", "describes a wrongly"),
    "a tuple as a storage's key": (
        b"\x80\2" + TUPLES + entry(tensor(STORAGE.replace(b"X\1\0\0\0000", b"h\1")))[2:],
        "describes a wrongly",
    ),
    "text as a storage": (entry(tensor(b"X\1\0\0\0xQ")), "describes a wrongly"),
    "text of five letters as a storage": (entry(tensor(b"X\5\0\0\0abcdeQ")), "describes a wrongly"),
    "no storage": (entry(tensor(b"N")), "describes a wrongly"),
    "a storage of a missing member": (entry(tensor(STORAGE.replace(b"\0\0\0000", b"\0\0\0009"))), "lacks data/9"),
    "a storage of another type": (
        entry(tensor(STORAGE.replace(b"FloatStorage", b"ComplexFloatStorage"))),
        "would need torch.ComplexFloatStorage; nothing was executed",
    ),
    "a storage that is too long": (entry(tensor(STORAGE.replace(b"K\3t", b"M\xff\xfft"))), "has a wrong size"),
    "a storage of a negative length": (entry(tensor(STORAGE.replace(b"K\3t", b"J\xff\xff\xff\xfft"))), "wrongly"),
    "a storage of a huge length": (
        entry(tensor(STORAGE.replace(b"K\3t", b"\x8a\x20" + b"\x7f" * 32 + b"t"))),
        "wrongly",
    ),
    "an offset that is text": (entry(tensor(offset=b"X\1\0\0\0x")), "describes a wrongly"),
    "an offset that is true": (entry(tensor(offset=b"\x88")), "describes a wrongly"),
    "an offset beyond the storage": (entry(tensor(offset=b"K\1")), "reaches beyond its storage"),
    "a shape that is text": (entry(tensor(shape=b"X\1\0\0\0x")), "reaches beyond its storage"),
    "a shape that is a number": (entry(tensor(shape=b"K\3")), "describes a wrongly"),
    "a shape of tuples": (b"\x80\2" + TUPLES + entry(tensor(shape=b"h\1"))[2:], "reaches beyond its storage"),
    "a shape without end": (entry(tensor(shape=b"(" + b"K\1" * 5000 + b"t")), "reaches beyond its storage"),
    "an empty shape that overflows": (
        entry(tensor(shape=b"(K\0" + b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"t", strides=b"K\1K\1\x86")),
        "reaches beyond its storage",
    ),
    "strides without end": (entry(tensor(strides=b"(" + b"K\1" * 5000 + b"t")), "reaches beyond its storage"),
    "negative strides": (entry(tensor(strides=b"J\xff\xff\xff\xff\x85")), "reaches beyond its storage"),
    "a tensor of no arguments": (entry(TENSOR + b")R"), "describes a wrongly"),
    "a tensor of a list": (entry(TENSOR + b"]R"), "describes a wrongly"),
    "a parameter of itself": (entry(b"ctorch._utils\n_rebuild_parameter\n]q\5Rq\6" + b"0h\5h\6a0h\6"), "wrongly"),
    "an OrderedDict with a state": (
        b"\x80\2ccollections\nOrderedDict\n)R}(X\5\0\0\0itemsNX\x08\0\0\0repeatedK\1ub" + b"X\1\0\0\0aNs.",
        "entries that are not named tensors: a",
    ),
    "a class of tuples": (b"\x80\4" + TUPLES + b"h\1h\1\x93)R.", "its steps do not fit together"),
    "a call of a call": (entry(b"cbuiltins\ngetattr\n(NtR)R"), "would need builtins.getattr; nothing was executed"),
    "a class that is made anew": (entry(b"cos\nsystem\n)\x81"), "would need os.system; nothing was executed"),
    "an old instance": (entry(b"(ios\nsystem\n"), "would need os.system; nothing was executed"),
    "an old object": (entry(b"(cos\nsystem\no"), "would need os.system; nothing was executed"),
    "an extension": (entry(b"\x82\1)R"), "would need copyreg.extension 1; nothing was executed"),
    "half a character in a name": (entry(tensor(), b"X\4\0\0\0x\xed\xa0\x80"), r"has a tensor called 'x\\ud800'"),
    "the header's own name": (entry(tensor(), b"X\x0c\0\0\0__metadata__"), "a tensor called '__metadata__', which"),
    "a long name": (entry(tensor(), b"X\0\x10\0\0" + b"a" * 4096), "a tensor called 'aaaa"),
    "a name twice": (b"\x80\2}X\1\0\0\0a" + tensor() + b"sX\1\0\0\0a" + tensor() + b"s.", "one name: a"),
    "steps that lack something": (b"\x80\2s.", r"its steps do not fit together"),
    "a mark that is not there": (b"\x80\2t.", "its steps do not fit together"),
    "a memo that is not there": (b"\x80\2h\1.", "its steps do not fit together"),
    "an odd number of items": (b"\x80\2}(Nu.", "its data.pkl cannot be read"),
    "no end": (b"\x80\2}", "its data.pkl cannot be read"),
    "nothing": (b"", "its data.pkl cannot be read"),
    "an unknown step": (b"\x80\2\xff.", "its data.pkl cannot be read"),
    "a buffer elsewhere": (b"\x80\5\x97.", "its steps do not fit together"),
    "a number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "its data.pkl cannot be read"),
    "text that claims to be long": (b"\x80\4\x8d" + b"\xff" * 7 + b"\x7f.", "its data.pkl cannot be read"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(tmp_path, bounded, case):
    steps, message = PICKLES[case]
    archive(tmp_path / "a.bin", steps)

    def refused():
        with pytest.raises(CheckpointError, match=message) as error:
            open_checkpoint(tmp_path / "a.bin")
        assert len(str(error.value)) < 600 and str(error.value).isprintable()

    assert bounded(refused) == 0


@pytest.mark.parametrize(
    "steps",
    [b"}", b"N\x85", b"N\x85]\x86", b"cos\nsystem\n)R", b"(", b"](" + b"N" * 7 + b"e", b"}r\0\0\0\x7f", b"]q\1h\1a"],
)
def test_pickles_of_many_steps(tmp_path, bounded, steps):
    """As long as they may be: a step takes microseconds and some hundred bytes."""
    archive(tmp_path / "a.bin", b"\x80\2N" + steps * (MAX_STEPS // 40) + b"N.")

    def read_it():
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "a.bin")

    assert bounded(read_it) == 0


def test_there_is_an_end_to_the_number_of_steps(monkeypatch):
    monkeypatch.setattr(pickled, "MAX_STEPS", 1000)
    assert isinstance(read_pickle(b"\x80\2" + b"}" * 998 + b"."), Pairs)
    with pytest.raises(ValueError, match="more than 1000 steps"):
        read_pickle(b"\x80\2" + b"}" * 999 + b".")


def test_pickles_are_read_as_python_reads_them():
    value = {
        "text": ["a", "图", b"bytes", bytearray(b"x")],
        "numbers": [0, 255, 65535, -1, 1 << 40, 1 << 3000, 1.5, True, None],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        7: {"inner": {}},
    }
    value["again"] = value["text"]

    def as_pairs(item):
        return plain(Pairs(list(item.items()))) if isinstance(item, dict) else item

    def plain(item):
        if isinstance(item, Pairs):
            return {key: plain(inner) for key, inner in item.pairs}
        if isinstance(item, Made):  # protocols before 5 make a bytearray of bytes, before 3 these of text
            return [plain(each) for each in item.arguments]
        return type(item)(map(plain, item)) if isinstance(item, list | tuple) else item

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = read_pickle(pickle.dumps(value, protocol))
        assert isinstance(found, Pairs)
        found = plain(found)
        assert found.keys() == value.keys() and found[7] == value[7] and found["numbers"] == value["numbers"]
        assert found["tuples"] == value["tuples"] and found["text"][:2] == found["again"][:2] == ["a", "图"]


def zip_file(path, *members):
    """A zip file of names and data; a number as data is a length of zeros."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            with file.open(name, "w", force_zip64=True) as member:
                if isinstance(data, bytes):
                    member.write(data)
                else:
                    for _ in range(data >> 20):
                        member.write(bytes(1 << 20))
    os.utime(path, (0, 0))
    return path


def test_a_pickle_of_many_zeros(tmp_path, bounded):
    zip_file(tmp_path / "a.bin", ("a/data.pkl", 200 << 20))

    def refused():
        with pytest.raises(CheckpointError, match="it describes more than a checkpoint can hold"):
            open_checkpoint(tmp_path / "a.bin")

    assert bounded(refused, 100 << 20) == 0


def test_a_compressed_pickle_of_many_zeros(tmp_path, bounded):
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(120 << 20))

    def refused():
        with pytest.raises(CheckpointError, match="has compressed members"):
            open_checkpoint(tmp_path / "a.bin")

    assert bounded(refused, 60 << 20) == 0


def test_a_directory_as_large_as_the_file(tmp_path, bounded):
    (tmp_path / "a.bin").write_bytes(b"PK\3\4")
    os.truncate(tmp_path / "a.bin", 3 << 30)
    with open(tmp_path / "a.bin", "ab") as file:
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, 3 << 30, 0, 0))

    def refused():
        with pytest.raises(CheckpointError, match="is damaged or incomplete"):
            open_checkpoint(tmp_path / "a.bin")

    assert bounded(refused, 200 << 20) == 0


@pytest.mark.parametrize("number", [0xFFFFFFFF, 2**32, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["offset", "size", "directory"])
def test_zip64_numbers(tmp_path, number, field):
    """Of a tensor's member: where it begins, how long it is; of the directory: where it begins."""
    archive(tmp_path / "a.bin", entry(tensor()))
    data = (tmp_path / "a.bin").read_bytes()
    place = data.rindex(b"PK\1\2")
    header, rest, end = data[place : place + 46], data[place + 46 : -22], data[-22:]
    fields = list(struct.unpack("<4s6H3I5H2I", header))
    start, extra = struct.unpack("<I", end[16:20])[0], b""
    if field != "directory":
        for index in {"offset": [16], "size": [8, 9]}[field]:
            fields[index] = 0xFFFFFFFF
            extra += struct.pack("<Q", number)
        extra = struct.pack("<HH", 1, len(extra)) + extra
        fields[11] = len(extra)
    data = data[:place] + struct.pack("<4s6H3I5H2I", *fields) + rest + extra
    size, begin = len(data) - start, number if field == "directory" else start
    data += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, size, begin)
    data += struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    data += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "b.bin").write_bytes(data)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "b.bin")


def test_encrypted_members(tmp_path):
    path = archive(tmp_path / "a.bin", entry(tensor()))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is an encrypted zip file"):
        open_checkpoint(path)


def test_names_of_members_in_another_alphabet(tmp_path):
    """As older versions of PyTorch name the folder in the archive after the file, with and without the flag."""
    for number, flag in enumerate((0x800, 0)):
        path = tmp_path / f"{number}.bin"
        torch.save({"a": torch.arange(3.0)}, tmp_path / "sound.bin")
        with zipfile.ZipFile(tmp_path / "sound.bin") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name.replace("sound/", "模型/"), old.read(name))
        if not flag:
            data = bytearray(path.read_bytes())
            for mark, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
                at = data.find(mark)
                while at >= 0:
                    data[at + place] &= ~0x08
                    at = data.find(mark, at + 1)
            path.write_bytes(data)
        (found,) = open_checkpoint(path).values()
        assert b"".join(map(bytes, read_pieces(found))) == torch.arange(3.0).numpy().tobytes()


def raw(path, header, size=0):
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    os.utime(path, (0, 0))
    return path


def described(**entries):
    return json.dumps(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **e} for name, e in entries.items()}
    ).encode()


HEADERS = {
    "empty entries": (b"{" + b",".join(b'"%d":{}' % number for number in range(150_000)) + b"}", "wrongly"),
    "empty tensors": (
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(200_000)) + b"}",
        "describes more than a checkpoint can hold",
    ),
    "brackets": (b'{"a":[' + b"[],[]," * 200_000 + b"[]]}", "describes more than a checkpoint can hold"),
    "depth": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep|more than 50 deep"),
    "too long": (b"{" + b" " * (17 << 20) + b"}", "its header does not fit"),
    "many digits": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', "not valid JSON"),
    "a huge shape": (described(a={"shape": [2**63]}), "describes a wrongly"),
    "an empty shape that overflows": (described(a={"shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}), "wrongly"),
    "many axes": (described(a={"shape": [1] * 100}), "describes a wrongly"),
    "a shape that is text": (described(a={"shape": "1"}), "describes a wrongly"),
    "a shape of truth": (described(a={"shape": [True]}), "describes a wrongly"),
    "a type that is a list": (described(a={"dtype": ["F32"]}), "describes a wrongly"),
    "a type that is nothing": (described(a={"dtype": None}), "stores a as None"),
    "a type with escapes": (described(a={"dtype": "\x1b[2J"}), r"stores a as '\\x1b\[2J'"),
    "offsets backwards": (described(a={"data_offsets": [8, 4]}), "describes a wrongly"),
    "offsets beyond": (described(a={"data_offsets": [2**58, 2**58 + 4]}), "it ends before a"),
    "one for all": (described(**{str(number): {} for number in range(9)}), "gives the same bytes to several tensors"),
    "half a character": (b'{"x\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "not valid JSON|called"),
    "escapes in a name": (described(**{"a\x1b[2J": {"shape": [3]}}), r"describes a\\x1b\[2J wrongly"),
    "not an object": (b'{"a":1}', "describes a wrongly"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(tmp_path, bounded, case):
    header, message = HEADERS[case]
    path = raw(tmp_path / "a.safetensors", header, 8)

    def refused():
        with pytest.raises(CheckpointError, match=message) as error:
            open_checkpoint(path)
        assert len(str(error.value)) < 600 and str(error.value).isprintable()

    assert bounded(refused) == 0


def test_a_tensor_called_like_the_headers_own_entry(convert_paint_to, golden, tmp_path):
    torch.save({**golden("paint_weights.safetensors"), "__metadata__": torch.ones(2)}, tmp_path / "a.bin")
    with pytest.raises(
        CheckpointError, match="has a tensor called '__metadata__', which a safetensors file cannot have"
    ):
        convert_paint_to(tmp_path / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_names_that_a_terminal_would_act_on_are_kept_and_not_printed(convert_paint_to, golden, tmp_path):
    """Paint keeps tensors under prefixes it does not know, whatever they are called."""
    odd = {
        "loss.\x1b[2J\n图\u202e": torch.ones(2),
        "": torch.ones(1),
        " ": torch.ones(3),
        "loss.$(x)`'\"": torch.ones(1),
    }
    torch.save({**golden("paint_weights.safetensors"), **odd}, tmp_path / "a.bin")
    out = convert_paint_to(tmp_path / "a.bin")
    assert load_file(out / "original_only.safetensors").keys() == odd.keys()
    os.remove(out / "original_only.safetensors")
    results = verify(tmp_path / "a.bin", out, progress=False)
    assert len(results["unused"].differences) == 4


@pytest.mark.parametrize("digit", ["٣", "１", "01", "+1", "1_0", "99999", "1" * 5000])
def test_only_plain_numbers_count_layers(golden, tmp_path, digit):
    weights = {
        name[4:]: value for name, value in golden("chat_weights.safetensors").items() if name.startswith("llm.")
    }
    name = f"encoder.layers.{digit}.self_att.layernorm_before_attention.weight"[:400]
    torch.save({**weights, name: torch.ones(40)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="unknown: encoder.layers."):
        convert_cpmbee(tmp_path / "a.bin", "vocab", tmp_path / "out", progress=False)
