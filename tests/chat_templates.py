"""Chat templates in the form of well-known families, short and written for the tests."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Turns must alternate; begins with BOS; the system message goes into the first user's.
BRACKETS = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set head = messages[0]['content'] + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set head = '' %}
{%- endif %}
{{- bos_token }}
{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if m['role'] == 'user' %}
        {{- '[INST] ' + (head if loop.first else '') + m['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# Tools in the first user's message, calls as JSON, results under a role of their own, a date.
HEADERS = """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%Y') %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- '<|head|>system<|/head|>\n\nToday: ' + date_string + '\n<|eot|>' }}
{%- if tools is not none %}
    {{- '<|head|>user<|/head|>\n\nFunctions:\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n' }}{%- endfor %}
{%- endif %}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}
        {%- if not m.tool_calls | length == 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot|>' }}
    {%- elif m.role == 'tool' or m.role == 'ipython' %}
        {{- '<|head|>ipython<|/head|>\n\n' }}
        {%- if m.content is mapping or m.content is iterable %}
            {{- m.content | tojson }}
        {%- else %}
            {{- m.content }}
        {%- endif %}
        {{- '<|eot|>' }}
    {%- else %}
        {{- '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\n\n' }}{%- endif %}
"""

# Reasoning in tags, a switch for it, arguments as text or object, results grouped.
THINKING = """\
{%- if tools %}
    {{- '<|im_start|>system\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.last %}{{- '<think>\n' + reasoning + '\n</think>\n\n' }}{%- endif %}
        {{- content }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}
                {{- tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments | tojson }}
            {%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# No system messages; the assistant is called model; content may be parts, whose texts are trimmed.
TURNS = """\
{{ bos_token }}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{ raise_exception('System role not supported') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('Invalid content type') }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""

# Content is parts and nothing else: a text is a list of characters without a type.
PARTS_ONLY = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# Parts from users alone; the assistant's content is a text.
PARTS_OF_USERS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% for part in message['content'] %}{{ '[' + part['text'] + ']' }}{% endfor %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)

# Arguments are joined to a text; calls are written where content is none.
JOINED_ARGUMENTS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<User>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['content'] is none %}
        {%- for tool in message['tool_calls'] %}
            {{- '<call>' + tool['function']['name'] + '\n' + tool['function']['arguments'] }}
            {{- '</call>' }}
        {%- endfor %}
    {%- elif message['role'] == 'assistant' %}
        {{- '<Assistant>' + message['content'] + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '<output>' + message['content'] + '</output>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<Assistant>' }}{%- endif %}
"""

# Arguments are gone through; what content lacks must be the empty text.
XML_ARGUMENTS = """\
{%- macro visible(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{ item.text }}
            {%- elif item is string -%}{{ item }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ content }}{%- endif -%}
{%- endmacro -%}
{%- for m in messages %}
    {%- if m.role == 'assistant' -%}
        <|assistant|>{{ m.content.strip() }}
        {%- for tc in m.tool_calls or [] %}
            {%- if tc.function %}{% set tc = tc.function %}{% endif %}
            {{- '\n<tool_call>' + tc.name }}
            {% set _args = tc.arguments %}
            {% for k, v in _args.items() %}
<arg_key>{{ k }}</arg_key><arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}
            {%- endfor %}
        {%- endfor %}
    {%- elif m.role == 'tool' -%}
        <|observation|>{{ visible(m.content) }}
    {%- else -%}
        <|{{ m.role }}|>{{ visible(m.content) }}{{ '/nothink' if think is defined and not think }}
    {%- endif -%}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
"""

# Blocks that mark answers for training, loop controls, a namespace, a trimmed block.
MARKED = """\
{% set ns = namespace(n=0) %}
{% for m in messages %}
{% if m.role == 'note' %}
{% continue %}
{% endif %}
{% if ns.n >= 3 %}
{% break %}
{% endif %}
{% set ns.n = ns.n + 1 %}
{% if m.role == 'assistant' %}
{% generation %}A: {{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}
{{ ns.n }}. {{ m.role | title }}: {{ {'text': m.content} | tojson(sort_keys=True) }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}A:{% endif %}
"""

# Roles by name, the reasoning of the last message under its second name.
CHANNELS = """\
{%- for m in messages %}
    {%- if m.role == 'developer' %}
        {{- '<|start|>developer<|message|># Instructions\n' + m.content + '<|end|>' }}
    {%- elif m.role == 'assistant' %}
        {%- if m.thinking %}
            {{- '<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}
        {%- endif %}
        {{- '<|start|>assistant<|message|>' + m.content + '<|end|>' }}
    {%- elif m.role == 'user' or m.role == 'system' %}
        {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""

# A dump of what there is.
DUMP = "{{ messages | tojson }}{% if tools %}{{ tools | tojson }}{% endif %}"

FAMILIES = {
    "chatml": CHATML,
    "brackets": BRACKETS,
    "headers": HEADERS,
    "thinking": THINKING,
    "turns": TURNS,
    "parts only": PARTS_ONLY,
    "parts of users": PARTS_OF_USERS,
    "joined arguments": JOINED_ARGUMENTS,
    "xml arguments": XML_ARGUMENTS,
    "marked": MARKED,
    "channels": CHANNELS,
    "dump": DUMP,
}
