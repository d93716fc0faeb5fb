"""Chat templates as transformers renders them, for the tests of src/data/template.rs.

    python tests/tools/make_chat_fixtures.py > tests/fixtures/chat_templates.json

The templates use what those of published models use: whitespace control, trim and lstrip of blocks,
namespaces, loop variables, slices, string methods, tojson, raise_exception, generation blocks.
"""

import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = {
    "one line per turn": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "default system message": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "indented blocks": """{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
    {% set system = messages[0]['content'] | trim + '\\n\\n' %}
    {% set messages = messages[1:] %}
{% else %}
    {% set system = '' %}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
    {% if loop.index0 == 0 %}
        {% set content = system + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ '[INST] ' + content.strip() + ' [/INST]' }}
    {% else %}
        {{ ' ' + content | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    "namespace and json": """{%- set ns = namespace(n=0, last='none') -%}
{%- for message in messages %}
    {%- set ns.n = ns.n + 1 %}
    {%- set ns.last = message.role %}
    {{- '<' ~ ns.n ~ ':' ~ message | tojson ~ '>' }}
{%- endfor %}
{{- '\\n' ~ ns.last.upper() ~ ' ' ~ (messages | length) }}
{%- if add_generation_prompt %}{{- ' go' }}{% endif %}""",
    "generation blocks": """{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<a>' -}}
        {%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- '<u>' + message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<a>' -}}{%- endif -%}""",
    "string methods": """{% for m in messages %}
{% set role = 'model' if m.role == 'assistant' else m.role %}
{% if m.content is string and 'o' in m.content and not m.content.startswith('#') %}
{{ loop.index }}/{{ loop.length }} {{ role | capitalize }}: {{ m.content.split(' ')[-1].rstrip('!?.') }}
{% elif loop.last %}
last {{ m['content'].replace('a', 'A')[:5] }}
{% endif %}
{% endfor %}
{% if tools is defined and tools %}tools{% endif %}
{{ 'open' if add_generation_prompt else 'closed' }}""",
    "tools and dates absent": """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "tools" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
}

USER = {"role": "user", "content": "  What is <b>\"good\"</b> & new?\nTell me! "}
CONVERSATIONS = [
    [USER],
    [USER, {"role": "assistant", "content": "Nothing's new; 'good' is ü✓."}],
    [
        {"role": "system", "content": " Be kind. "},
        USER,
        {"role": "assistant", "content": "# no"},
        {"role": "user", "content": "Go on then"},
        {"role": "assistant", "content": "{{ braces }} {% stay %}"},
    ],
]


def main():
    cases = []
    for name, template in TEMPLATES.items():
        for messages in CONVERSATIONS:
            for opened in (False, True):
                rendered, _ = render_jinja_template(
                    [messages],
                    chat_template=template,
                    add_generation_prompt=opened,
                    bos_token="<s>",
                    eos_token="</s>",
                )
                cases.append(
                    {
                        "name": name,
                        "template": template,
                        "messages": messages,
                        "add_generation_prompt": opened,
                        "rendered": rendered[0],
                    }
                )
    json.dump(cases, sys.stdout, indent=1, ensure_ascii=False)
    print()


main()
