"""_stats_schema.py - what stats_schema.sh asks of the statistics' texts. Exits with 1 and says why if it is not so.

Usage: _stats_schema.py valid SCHEMA FILE...      each file's last line is an object that the schema describes, and its sums hold
       _stats_schema.py strict SCHEMA FILE        the schema refuses that object with any one thing changed
       _stats_schema.py grows SCHEMA RUN...       from RUN/one.json to RUN/two.json nothing that only grows has fallen
       _stats_schema.py documented SCHEMA TABLES HEADER
                                                  the schema, the tables of statistics.md and struct hak_stats have the same fields
       _stats_schema.py xml RUN...                RUN/info.xml is malloc_info's, and has the figures of RUN/info.json
"""
import copy
import json
import pathlib
import re
import sys
import xml.etree.ElementTree

from jsonschema import Draft202012Validator


def require(condition, why):
    if not condition:
        sys.exit(f"stats_schema: {why}")


def no_key_twice(pairs):
    require(len(dict(pairs)) == len(pairs), f"a key comes twice: {[key for key, _ in pairs]}")
    return dict(pairs)


def read(path):
    line = pathlib.Path(path).read_text().rstrip("\n").rsplit("\n", 1)[-1]
    return json.loads(line, object_pairs_hook=no_key_twice, parse_constant=lambda name: require(False, name))


def validator_of(path):
    schema = json.loads(pathlib.Path(path).read_text(), object_pairs_hook=no_key_twice)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def sum_of(entries, field):
    return sum(entry[field] for entry in entries)


def check_sums(stats, path):
    """What docs/statistics.md says of a moment at which nobody allocates."""
    classes, threads = stats["classes"], stats["thread_caches"]
    plain = [entry for entry in classes if entry["kind"] == "class"]
    require(sum_of(classes, "live_bytes") + stats["sampled_bytes"] - stats["waiting_bytes"] == stats["live_bytes"],
            f"{path}: live bytes")
    require(sum_of(classes, "live_blocks") + stats["sampled_blocks"] - stats["waiting_blocks"] == stats["live_blocks"],
            f"{path}: live blocks")
    require(sum_of(classes, "cached_bytes") + stats["waiting_bytes"] == stats["cached_bytes"], f"{path}: cached bytes")
    require(sum_of(classes, "dirty_bytes") + stats["empty_bytes"] == stats["committed_bytes"], f"{path}: committed bytes")
    require(len(threads) == min(stats["threads"], 4096), f"{path}: {len(threads)} of {stats['threads']} threads")
    require(sum_of(threads, "cached_bytes") + stats["waiting_bytes"] == stats["cached_bytes"], f"{path}: threads' bytes")
    for thread in threads:
        by_class = thread["cached_blocks_by_class"]
        held_blocks = thread["cached_blocks"] - sum(by_class.values())
        require(0 <= held_blocks <= thread["held_slabs"], f"{path}: a thread's blocks")
        require((held_blocks == 0) == (thread["held_slabs"] == 0), f"{path}: a thread's held blocks")
        in_classes = sum(int(size) * n for size, n in by_class.items())
        require(in_classes + thread["held_bytes"] == thread["cached_bytes"], f"{path}: a thread's bytes")
    sizes = [entry["block_bytes"] for entry in plain]
    require(sizes == sorted(set(sizes)) and classes[:len(plain)] == plain, f"{path}: the classes' order")
    for entry in plain:
        taken = entry["live_blocks"] + entry["following_blocks"]
        require(entry["live_bytes"] == taken * entry["block_bytes"], f"{path}: bytes of class {entry['block_bytes']}")
        blocks = taken + entry["cached_blocks"] + entry["free_blocks"]
        require(blocks == entry["slabs"] * (65536 // entry["block_bytes"]), f"{path}: blocks of class {entry['block_bytes']}")
    for name, tier in stats["tiers"].items():
        require(sum(tier["by_fullness"]) == tier["superslabs"] == stats[f"superslabs_{name}"], f"{path}: tier {name}")


def valid(schema, *paths):
    validator = validator_of(schema)
    for path in paths:
        stats = read(path)
        errors = [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(stats)]
        require(not errors, f"{path}: {errors[:3]}")
        check_sums(stats, path)


def changes_of(value):
    """Copies of a value, each with one thing wrong."""
    if isinstance(value, dict):
        yield value | {"unheard_of": 1}
        for key, member in value.items():
            if not key.isdigit():
                yield {k: v for k, v in value.items() if k != key}
            for changed in changes_of(member):
                yield value | {key: changed}
    elif isinstance(value, list):
        for changed in changes_of(value[0]) if value else []:
            yield [changed] + value[1:]
    elif isinstance(value, int):
        yield from (-1, value + 0.5, str(value), None)
    else:
        yield from (value + "?", 1)


def strict(schema, path):
    validator, stats, n = validator_of(schema), read(path), 0
    require(validator.is_valid(stats), f"{path} is not valid")
    for changed in changes_of(copy.deepcopy(stats)):
        gone = [key for key in stats if key not in changed]
        require(not validator.is_valid(changed), f"the schema takes it with something wrong; gone: {gone}")
        n += 1
    require(n > 200, f"only {n} changes were tried")


def counters_of(schema, stats):
    for name, field in schema["properties"].items():
        if field.get("x-only-grows"):
            yield name, stats[name]
        elif name == "lock_acquisitions":
            for cause, n in stats[name].items():
                yield f"{name}.{cause}", n


def grows(schema, *runs):
    schema = json.loads(pathlib.Path(schema).read_text())
    for run in runs:
        before, after = (dict(counters_of(schema, read(f"{run}/{name}.json"))) for name in ("one", "two"))
        require(before.keys() == after.keys() and len(before) > 25, f"{run}: counters are missing")
        for name, n in before.items():
            require(after[name] >= n, f"{run}: {name} fell from {n} to {after[name]}")
        require(sum(after.values()) > sum(before.values()), f"{run}: nothing happened")


def rows_of(text, title):
    """The table below a title: a field, whether it only grows, what it means."""
    require(title + "\n" in text, f"statistics.md lacks {title}")
    part = re.split(r"\n#+ ", text.split(title + "\n", 1)[1])[0]
    return [(name, star != "", meaning)
            for name, star, meaning in re.findall(r"^\| `([a-z_]+)`( \*)? \| (.+) \|$", part, re.MULTILINE)]


def documented(schema, tables, header):
    schema, text = json.loads(pathlib.Path(schema).read_text()), pathlib.Path(tables).read_text()
    definitions = schema["$defs"]
    for title, properties in [("## The JSON object", schema["properties"]),
                              ("### `lock_acquisitions`", schema["properties"]["lock_acquisitions"]["properties"]),
                              ("### `tiers.hot`, `tiers.draining`", definitions["tier"]["properties"]),
                              ("### `classes[]`", definitions["class"]["properties"]),
                              ("### `thread_caches[]`", definitions["thread_cache"]["properties"])]:
        shall = [(name, field.get("x-only-grows", False), field["description"]) for name, field in properties.items()]
        rows = rows_of(text, title)
        for row in shall:
            require(row in rows, f"statistics.md, {title}: no row for {row}")
        require(rows == shall, f"statistics.md, {title}: other rows, or another order: {set(rows) - set(shall)}")
    struct = re.search(r"^struct hak_stats \{(.*?)^\};", pathlib.Path(header).read_text(), re.MULTILINE | re.DOTALL)[1]
    struct = re.sub(r"/\*.*?\*/", "", struct, flags=re.DOTALL)
    members = {name for line in re.findall(r"uint(?:32|64)_t ([^;]+);", struct)
               for name in re.findall(r"([a-z_]+)(?:\[\w+\])?(?:,|$)", line)}
    elsewhere = {"struct_size_bytes", "hot_by_fullness", "draining_by_fullness"} # statistics.md says so
    only_here = {"profile", "resident_bytes", "huge_bytes", "tiers", "classes", "thread_caches"}
    require(members - elsewhere == schema["properties"].keys() - only_here,
            f"struct hak_stats and the schema differ: {(members - elsewhere) ^ (schema['properties'].keys() - only_here)}")


def compare_xml(root, stats):
    require(root.tag == "malloc" and root.get("version") == "1", "no <malloc version='1'>")
    heap = root.find("heap")
    require([child.tag for child in root][0] == "heap" and heap.get("nr") == "0", "no <heap nr='0'> at the beginning")
    shall = {"total live": (stats["live_blocks"], stats["live_bytes"]),
             "total fast": (stats["cached_blocks"], stats["cached_bytes"]),
             "total rest": (sum_of(stats["classes"], "free_blocks"), stats["fragmentation_bytes"]),
             "total mmap": (stats["spans"] + stats["runs"], stats["span_bytes"] + stats["run_bytes"]),
             "system current": (None, stats["committed_bytes"]), "system max": (None, stats["peak_committed_bytes"]),
             "aspace total": (None, stats["reserved_bytes"]), "aspace mprotect": (None, stats["mapped_bytes"])}
    for parent in (heap, root):
        found = {f"{child.tag} {child.get('type')}": (child.get("count") and int(child.get("count")), int(child.get("size")))
                 for child in parent if child.get("size") is not None}
        require(found == shall, f"<{parent.tag}>: {found} instead of {shall}")
    sizes = [{key: int(value) for key, value in size.items()} for size in heap.find("sizes")]
    plain = [entry for entry in stats["classes"] if entry["kind"] == "class"]
    require(len(sizes) == len(plain) and len(sizes) > 3, f"{len(sizes)} sizes, {len(plain)} classes")
    for size, entry in zip(sizes, plain):
        free_blocks = entry["cached_blocks"] + entry["free_blocks"]
        require(size.pop("from") <= size["to"], "a size begins after its end")
        require(size == {"to": entry["block_bytes"], "total": free_blocks * entry["block_bytes"], "count": free_blocks,
                         "slabs": entry["slabs"], "live": entry["live_blocks"], "cached": entry["cached_blocks"],
                         "dirty": entry["dirty_bytes"]}, f"<size> {size} of {entry}")


def xml_text(*runs):
    for run in runs:
        compare_xml(xml.etree.ElementTree.parse(f"{run}/info.xml").getroot(), read(f"{run}/info.json"))


if __name__ == "__main__":
    {"valid": valid, "strict": strict, "grows": grows, "documented": documented, "xml": xml_text}[sys.argv[1]](*sys.argv[2:])
