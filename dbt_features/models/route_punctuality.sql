{{ config(unique_key='day') }}
{{ punctuality('route', ['origin', 'dest']) }}
