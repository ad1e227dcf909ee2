{{- define "diffscribe.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "diffscribe.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "diffscribe.labels" -}}
{{ include "diffscribe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Seconds a pod takes to go: balancers take note, streams finish, connections close. */ -}}
{{- define "diffscribe.goingSeconds" -}}
{{- add .Values.drain.beforeSeconds .Values.drain.seconds 15 -}}
{{- end -}}

{{- /* The secret with the keys; without one the server would be open to the whole cluster. */ -}}
{{- define "diffscribe.secret" -}}
{{- if .Values.existingSecret -}}
{{- .Values.existingSecret -}}
{{- else -}}
{{- $_ := required "apiKeys or existingSecret: clients need a key" (first .Values.apiKeys) -}}
{{- include "diffscribe.name" . -}}
{{- end -}}
{{- end -}}
