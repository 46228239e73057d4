{# How late the flights of each group were on each New York day, as far as was known at its end. #}
{% macro punctuality(name, columns) %}
with days as (
    select unnest(generate_series(
        timezone('America/New_York', timestamptz '{{ env_var("MLOPS_WINDOW_START") }}'),
        timezone('America/New_York', timestamptz '{{ env_var("MLOPS_WINDOW_END") }}') - interval 1 day,
        interval 1 day
    )) as local_day
),
bounds as (
    select
        timezone('America/New_York', local_day) as day,
        timezone('America/New_York', local_day + interval 1 day) as as_of
    from days
)
select
    {% for column in columns -%}
    flights.{{ column }},
    {% endfor -%}
    bounds.day,
    bounds.as_of,
    avg((flights.arr_delay > 15)::int) as {{ name }}_late_share_1d,
    avg(flights.arr_delay) as {{ name }}_mean_delay_1d,
    count(*) as {{ name }}_flights_1d
from bounds
join {{ source('dataset', 'flights') }} as flights
  on flights.scheduled_at >= bounds.day
 and flights.scheduled_at < bounds.as_of
 and flights.landed_at < bounds.as_of
where flights.arr_delay is not null
group by {% for column in columns %}flights.{{ column }}, {% endfor %}bounds.day, bounds.as_of
{% endmacro %}
