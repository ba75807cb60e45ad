"""`GET /docs`: the OpenAPI document to read, without the scripts that FastAPI's own page fetches from the Internet."""

import json
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #8881; padding: .7rem; overflow-x: auto; } td, th { text-align: left; vertical-align: top; }
td, th { padding: .2rem .8rem .2rem 0; } h2 { margin-top: 3rem; } :root { color-scheme: light dark; }
"""
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def add_to(app: FastAPI) -> None:
    """Adds the route."""

    @app.get("/docs", include_in_schema=False)
    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(app.openapi(), str(request.base_url).rstrip("/")), headers=_HEADERS)


def _page(document: dict[str, Any], address: str) -> str:
    info = document["info"]
    parts = [f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('summary', ''))}</p>"]
    parts.append('<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>')
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(f"{method.upper()} {path}", f"{address}{path}", operation))
    parts.append("<h2>What is sent and answered</h2>")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        parts.append(_schema(name, schema))
    title = escape(info["title"])
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>{"".join(parts)}'


def _operation(title, address, operation):
    parts = [f"<h2><code>{escape(title)}</code></h2><p><b>{escape(operation.get('summary', ''))}.</b></p>"]
    parts += [f"<p>{escape(text)}</p>" for text in operation.get("description", "").split("\n\n")]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body:
        parts.append(f"<p>Takes {_kind(body['schema'])}.</p>")
    for example in body.get("examples", {}).values():
        sent = escape(json.dumps(example["value"], ensure_ascii=False))
        command = f"curl {escape(address)} -H 'Content-Type: application/json' -d '{sent}'"
        parts.append(f"<p>{escape(example.get('summary', ''))}:</p><pre>{command}</pre>")
    rows = [
        (f"<code>{escape(status)}</code>", escape(answer.get("description", "")), _kind_of_answer(answer))
        for status, answer in operation["responses"].items()
    ]
    return "".join(parts) + _table(("status", "when", "answer"), rows)


def _kind_of_answer(answer):
    return " or ".join(
        _kind(content["schema"]) if content.get("schema") else escape(name)
        for name, content in answer.get("content", {}).items()
    )


def _schema(name, schema):
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _kind(kind) + (", required" if field in required else ""),
            escape(kind.get("description", "")),
        )
        for field, kind in schema.get("properties", {}).items()
    ]
    text = f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
    return text + _table(("field", "type", "meaning"), rows)


def _kind(schema):
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_kind, choices))
    if "const" in schema or "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(v))}</code>" for v in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(schema.get("type", ""))


def _table(head, rows):
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{cells}</table>"
