{{ config(unique_key='as_of') }}
{{ punctuality('carrier') }}
