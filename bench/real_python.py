"""real_python.py - a Python program as programs are: dicts, lists, strings, json, sorting. Called by bench.py.

Every value comes from a loop's number, so the output is the same under every allocator."""
import json


def records(n):
    return [{"id": i, "name": f"name {i * 7919 % 10007}", "tags": [f"t{i % k}" for k in (3, 5, 7)], "price": i / 8}
            for i in range(n)]


def group(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    return groups


def count_words(rows):
    text = "\n".join(f"{row['name']}: {'-'.join(row['tags'])} {'x' * (row['id'] * 31 % 120)}" for row in rows)
    counts = {}
    for word in text.replace("-", " ").split():
        counts[word] = counts.get(word, 0) + 1
    return len(text), sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5]


def numbers(n):
    squares = [i * i * 1000003 for i in range(n)]
    return sum(squares) % 1000000007, sorted(squares, key=lambda square: square % 99991)[n // 2]


def main():
    rows = records(50000)
    for _ in range(2):
        rows = json.loads(json.dumps(rows))
    rows.sort(key=lambda row: (row["name"], -row["id"]))
    print(len(group(rows)), rows[1234])
    print(*count_words(rows))
    print(*numbers(300000))


main()
