{{ config(unique_key='day') }}
{{ punctuality('origin', ['origin']) }}
