{{ config(unique_key='day') }}
{{ punctuality('carrier', ['carrier']) }}
