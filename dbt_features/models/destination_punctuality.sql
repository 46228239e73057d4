{{ config(unique_key='day') }}
{{ punctuality('dest', ['dest']) }}
